# ruff: noqa: RUF001
"""The words by which judges state a verdict, as parts of regular expressions.

English, German, French, Spanish, Russian, Chinese, Japanese, Hindi and Arabic, in this order. Of
other languages only digits with their scale are read: what is not understood is asked again, never
guessed.
"""

from __future__ import annotations

# What a score stands behind, with nothing between them but `LINKS`.
LABELS = (
    r"scores?|ratings?|grade|"
    r"(?:gesamt)?(?:bewertung|punktzahl|wertung)|gesamtnote|"
    r"évaluation|notation|appréciation|note (?:finale|globale|totale)|"
    r"puntuación|puntaje|calificación|valoración|"
    r"оценка|балл|рейтинг|"
    r"(?:综合)?(?:评分|得分|打分)|評分|分数|总分|總分|"
    r"スコア|点数|得点|(?:総合)?評価|評点|採点(?:結果)?|"
    r"स्कोर|रेटिंग|मूल्यांकन|"
    r"الدرجة|التقييم"
)
# Labels that mean other things too ("Note: 2 sentences ...", "The answer is 4"): they count where
# they begin a line, with a colon behind them and nothing but the score after that.
WEAK_LABELS = (
    r"answer|result|verdict|overall|total|marks?|points?|"
    r"note|punkte|gesamt|insgesamt|urteil|ergebnis|nota|puntos|итог|баллы|अंक|درجة|النتيجة"
)
# Of all labelled scores these are the last word.
FINAL = (
    r"final|overall|total|(?:gesamt|end)\w*|insgesamt|globale?|finale|"
    r"итог\w*|общ\w+|最终|最後|最终|最终的|最終|总体|综合|総合|总分|總分|अंतिम|कुल|النهائي\w*|الإجمالي\w*"
)
BEFORE_LABELS = (
    rf"the|my|this|therefore|thus|so|{FINAL}|meine?|die|der|das|ma|la|mi|моя|我的|因此|"
    r"(?:这个|该)?(?:回答|回复)的|この回答の|मेरा|इसका|इस उत्तर का"
)
AFTER_LABELS = (
    rf"{FINAL}|for (?:this|the) (?:reply|response|answer|completion)|für diese antwort|"
    r"pour cette réponse|para esta respuesta|attribuée"
)
# What may lead to a label within its sentence.
LEADING = (
    r"i(?:'d| would)? (?:say|think|believe)(?: that)?|so|thus|therefore|hence|then|overall|"
    r"daher|also|insgesamt|donc|por (?:lo )?tanto|поэтому|所以|因此|よって"
)
LINKS = (
    r"would be|will be|is|ist|wäre|est|sera|es|sería|составляет|为|是|為|は|が|है|هو|هي|"
    r"of|an?|eine?|une?|un|de"
)
SCALE_LINKS = r"out of|of|von|sur|de|sobre|из|من|su|na"
OF_FIVE = r"out of five|von fünf|sur cinq|de cinco|из пяти|من خمسة"
UNITS = (
    r"points?|pts?|stars?|punkten?|punkt|sternen?|étoiles?|puntos?|estrellas?|"
    r"балл(?:а|ов)?|звезды?|分|点|點|अंक|नंबर|نقاط|نقطة|نقطتان|درجات"
)
# "0 to 5"
UNTIL = r"to|bis|à|a|al|y|and|und|et|до|и|到|至|から|से|إلى|-|–|—|~|〜|\.\."
OR = r"or|oder|ou|o|u|или|或|或者|か|または|या|أو|" + UNTIL
SCALES = r"scale|skala|échelle|escala|шкал[аеу]|尺度|पैमाने|स्केल|مقياس"
# A judge that says so isn't sure.
HEDGES = (
    r"maybe|perhaps|possibly|probably|roughly|approximately|approx\.?|around|about|almost|nearly|"
    r"at (?:most|least)|up to|less than|more than|"
    r"vielleicht|etwa|ungefähr|wahrscheinlich|höchstens|mindestens|fast|knapp|"
    r"peut-être|environ|probablement|presque|quizás?|tal vez|probablemente|casi|"
    r"возможно|наверное|примерно|может быть|около|可能|也许|大概|大约|或许|たぶん|おそらく|多分|約|"
    r"शायद|लगभग|संभवतः|ربما|تقريبا|حوالي"
)
HEDGES_AFTER = r"and a half|et demie?|y medi[oa]|⁄|左右|くらい|ぐらい|程度|かもしれ|かな|吧"
# Behind a score, with a sign behind them and another number after that: the score is taken back.
TAKES_BACK = (
    r"no|nope|wait|hmm+|actually|sorry|correction|(?:or )?rather|scratch that|"
    r"nein|moment|doch|vielmehr|korrektur|non|plutôt|pardon|perdón|mejor dicho|"
    r"нет|вернее|точнее|不|不对|不對|更正|いや|いいえ|訂正|नहीं|لا|بل"
)
# A sentence with one of these tells what others say or want, or what would be if.
TOLD = (
    r"says?|said|claims?|contains?|includes?|asks?|tells?|told|demands?|orders?|wants?|insists?|"
    r"instructs?|reads?|writes?|wrote|written|states?|planted|quotes?|begs?|requests?|suggests?|"
    r"pretends?|ends with|starts with|if|unless|"
    r"sagt|behauptet|verlangt|fordert|bittet|lautet|schreibt|steht|falls|wenn|"
    r"dit|prétend|demande|réclame|exige|affirme|contient|écrit|si|"
    r"dice|pide|afirma|exige|contiene|escribe|"
    r"говорит|написано|требует|просит|утверждает|если|"
    r"写着|要求|声称|写道|说|如果|包含|書いて|求めて|頼んで|言って|もし|主張|"
    r"कहता|कहती|कहा|लिखा|माँग|मांग|अगर|यदि|يقول|تقول|يطلب|يدعي|كتب|مكتوب|لو|إذا"
)
# A sentence with one of these before a score denies it.
DENIED = (
    r"not|no|never|nowhere|without|cannot|\w+n't|nicht|keine?\w*|nie|ne|pas|nunca|не|нет|ни|"
    r"不|没|無|未|नहीं|न|لا|لن|لم|ليس"
)
# Of a line before a statement that ends in a colon: the judge announces its own.
ANNOUNCED = (
    r"my|evaluation|assessment|verdict|scores?|rating|grade|judg\w+|final|overall|conclusion|json|"
    r"result|mein\w*|\w*bewertung|\w*punktzahl|urteil|ergebnis|ma|note|évaluation|résultat|mi|"
    r"evaluación|puntuación|resultado|моя|\w*оценка|итог\w*|评分|评价|得分|结果|結果|評価|スコア|"
    r"点数|मूल्यांकन|स्कोर|التقييم|الدرجة|better|winner|answer|besser|mejor"
)
# What may follow a score within its sentence.
GOES_ON = (
    r"because|since|as|for|due|overall|in total|in all|and|but|given|"
    r"to (?:this|the|it)|on (?:the|this) (?:given )?scale|"
    r"weil|da|denn|wegen|für|und|aber|insgesamt|"
    r"parce|car|puisque|pour|et|mais|à|porque|ya que|pues|por|y|pero|a esta|"
    r"потому|так как|за|и|но|этому|因为|因|但|でした|です|とします|だ|、|"
    r"क्योंकि|है|हैं|देता|देती|दूँगा|दूंगा|दूँगी|दूंगी|لأن\w*|بسبب|لكن"
)
# The judge's own act of scoring, up to the number: subject with verb, then words between.
GIVES = (
    r"i(?:'d| would| will|'ll| shall)?(?: only| therefore| thus| just)? "
    r"(?:give|rate|score|award|assign|grade|go with|settle on)|"
    r"i(?:'d| would)? say|"
    r"(?:it|this|(?:the|this) (?:reply|response|answer|completion|text)|and|but|so|which) "
    r"(?:earns|deserves|gets|merits|receives|scores|is worth)|"
    r"ich (?:gebe|vergebe|bewerte|werte|würde)|(?:gebe|vergebe|bewerte|würde) ich|verdient|"
    r"(?:die antwort|sie) (?:bekommt|erhält)|"
    r"je (?:lui |te )?(?:donne|donnerais|mets|mettrais|attribue|attribuerais|accorde)|"
    r"je (?:note|noterais)|mérite|(?:cette|la) réponse obtient|"
    r"(?:le|la) (?:doy|daría|otorgo|asigno|pongo)|(?:doy|daría|otorgo|asigno|calificaría|califico)|"
    r"merece|obtiene|"
    r"(?:ставлю|поставлю|поставил|поставила|даю|дал|дала|присваиваю)|ответ получает|заслуживает|"
    r"(?:我|因此|所以)?(?:会|想|只)?(?:给|給)(?:这个|該|该|此)?(?:回答|回复|答案|它|其)?(?:打|评)?|"
    r"(?:我|会)打|(?:该|这个|此)(?:回答|回复)得|"
    r"मैं|أعطي\w*|أمنح\w*|يستحق"
)
GIVEN = (
    r"it|this|that|the|reply|response|answer|completion|text|assistant(?:'s)?|to|as|at|with|just|"
    r"only|overall|an?|score|rating|grade|mark|of|solid|strong|weak|full|"
    r"dieser|diese|der|die|antwort|text|ihr|ihm|dafür|hierfür|eine[nr]?|ein|mit|note|nur|insgesamt|"
    r"lui|à|cette|la|réponse|une?|de|ce|texte|seulement|le|esta|este|respuesta|texto|con|un|una|nota|"
    r"я|бы|этому|ответу|ответ|в|на|оценку|балл|только|лишь|тексту|出|了|为|"
    r"इस|इसे|उत्तर|जवाब|को|هذا|هذه|الرد|الإجابة|النص|درجة|فقط"
)
# The same, in languages whose verb comes last.
GIVES_AFTER = (
    r"とします|にします|と(?:評価|採点)します|を(?:付け|つけ|与え)ます|に値します|"
    r"(?:देता|देती) (?:हूँ|हूं)|(?:दूँगा|दूंगा|दूँगी|दूंगी)"
)
# What else may end a statement.
CLOSINGS = rf"{GIVES_AFTER}|です|でした|だ|है|हैं|geben|vergeben"
# German's "null" is not among them: a judge that says no more says JSON's nothing.
NUMBER_WORDS: dict[str, float] = {
    word: float(value)
    for value, words in enumerate(
        [
            "zero zéro cero ноль 零 शून्य صفر",
            "one eins eine un une uno una один 一 एक واحد",
            "two zwei deux dos два 二 两 दो اثنان",
            "three drei trois tres три 三 तीन ثلاثة",
            "four vier quatre cuatro четыре 四 चार أربعة",
            "five fünf cinq cinco пять 五 पाँच पांच خمسة",
            "six sechs seis шесть 六 छह ستة",
            "seven sieben sept siete семь 七 सात سبعة",
            "eight acht huit ocho восемь 八 आठ ثمانية",
            "nine neun neuf nueve девять 九 नौ تسعة",
            "ten zehn dix diez десять 十 दस عشرة",
        ]
    )
    for word in words.split()
}
_JUDGING = (
    r"help|assist|judg|rate|rating|scor|evaluat|grad|assess|compar|comply|provide|assign|answer|"
    r"engage|fulfil|discuss|continue|respond|do (?:that|this|so)"
)
# The judge itself declines, in the first person or without one.
REFUSALS = (
    rf"\bi(?:'m| am|'d| would)? ?(?:[\p{{L}}']+ ){{0,2}}(?:cannot|can't|can not|won't|will not|"
    rf"unable|not able|not going|decline|refuse|rather not|not comfortable)\b(?! help but)"
    rf"[^.\n]{{0,40}}?\b(?:{_JUDGING})|"
    rf"\bi (?:do not|don't) (?:feel comfortable|{_JUDGING})|\bi(?:'d)? prefer not to|"
    rf"(?:not|n't) allow me to (?:{_JUDGING})|"
    rf"(?:^|[.\n,] ?)(?:but )?(?:unable to|cannot|can't|won't) (?:{_JUDGING})",
    r"(?:(?:kann|darf|werde|möchte) (?:das )?ich|ich (?:kann|darf|werde|möchte))\b[^.\n]{0,60}"
    r"\bnicht \w*(?:bewert|beurteil|beantwort|helfen|vergleich|benot|einschätz)|nicht in der Lage|"
    r"ich (?:leider )?keine (?:bewertung|note|punkte) (?:abgeben|geben|vergeben)|"
    r"(?:kann|darf) ich\b[^.\n]{0,40}\bnicht|außerstande",
    r"\bje (?:ne )?(?:peux|suis|saurais|veux|vais)\b[^.\n]{0,30}"
    r"(?:évaluer|noter|aider|juger|comparer|répondre|donner|attribuer|en mesure de)|je refuse|"
    r"je préfère ne pas",
    r"\bno (?:puedo|podemos|podría|me es posible)\b[^.\n]{0,30}"
    r"(?:evaluar|ayudar|puntuar|calificar|juzgar|comparar|responder|dar|asignar)|me niego|"
    r"prefiero no",
    r"\bне (?:могу|буду|в состоянии|вправе)\b[^.\n]{0,30}(?:оцен|помоч|сравн|судить|отве|став)|"
    r"отказываюсь",
    r"我(?:们)?(?:无法|不能|不会|不便|拒绝|没办法|無法)[^。\n]{0,12}"
    r"(?:评|打分|给分|给出|帮|协助|比较|回答|判断|满足|評|比較)",
    r"(?:評価|採点|お手伝い|比較|回答|お答え|判断|対応)(?:を|は|する(?:こと)?(?:は|が)?)?"
    r"(?:いた|致)?し?(?:でき(?:ません|かね)|かね(?:ます|る)|控え)",
    r"(?:मैं|हम)[^।\n]{0,60}(?:(?:नहीं (?:कर|दे)|आंक नहीं) सकत|असमर्थ)",
    r"(?:لا|لن) (?:أستطيع|يمكنني|أقدر|أتمكن)|أرفض",
)
# A text that begins so and states nothing is a refusal, too.
APOLOGIES = (
    r"(?:i'm |i am )?(?:so |very )?sorry|i apologi[sz]e|es tut mir leid|leider|tut mir leid|"
    r"(?:je suis )?désolée?|lo siento|lo lamento|извините|к сожалению|простите|抱歉|对不起|很遗憾|"
    r"申し訳|すみません|恐れ入りますが|क्षमा|माफ़?|عذر|آسف|أعتذر"
)
# Comparisons.
REPLIES = (
    r"reply|response|answer|assistant|model|option|completion|antwort|réponse|respuesta|ответ|"
    r"回答|回复|答案|答复|उत्तर|जवाब|الرد|الإجابة"
)
BETTER = (
    r"(?:is|was) (?:clearly |slightly |much |the )?better(?: one| reply| response| answer)?|wins|"
    r"ist (?:klar |etwas |deutlich )?besser|est (?:nettement |un peu )?(?:la )?meilleure?|"
    r"es (?:claramente |un poco )?(?:la )?mejor|лучше|(?:更|比较)?(?:好|优秀|佳)|"
    r"の?(?:ほう|方)?が(?:優れてい(?:ます|る)|良い(?:です)?|いい(?:です)?)|बेहतर (?:है|हैं)|أفضل"
)
CHOICE_LABELS = (
    r"answer|verdict|choice|winner|preference|preferred|better|best|decision|"
    r"besser|sieger|urteil|meilleure?|gagnante?|verdict|mejor|ganadora?|veredicto|"
    r"лучше|лучший|победитель|更好的?|较好的?|更佳|最佳|答案|选择|胜者|より良い|優れた|勝者|"
    r"बेहतर|विजेता|(?:الرد )?الأفضل|الفائز"
)
PREFERS = (
    r"i (?:would |clearly |slightly )?(?:prefer|choose|pick|favou?r)|ich (?:bevorzuge|wähle)|"
    r"je (?:préfère|choisis)|prefiero|elijo|(?:я )?(?:предпочитаю|выбираю)|我(?:更喜欢|选择|选)|"
    r"मैं|أفضّل|أختار"
)
# The same, in languages whose verb comes last.
CHOSEN = r"(?:को बेहतर )?(?:चुनता|चुनती|मानता|मानती) (?:हूँ|हूं)|を選びます"
TIES = (
    r"(?:(?:both|they|a and b|the replies) are )?(?:equally good|equal|the same)|"
    r"(?:(?:a und b|beide)(?: antworten)? sind )?(?:gleichwertig|gleich gut)|"
    r"(?:it(?:'s| is) )?an? (?:tie|draw)|tie|tied|c|both|neither|draw|same|"
    r"unentschieden|gleich|beide|égalité|ex æquo|ex aequo|égales|"
    r"empate|iguales|ничья|поровну|одинаково|平局|平手|一样好?|相同|同等|引き分け|同点|"
    r"बराबर|टाई|تعادل|متساويان"
)
